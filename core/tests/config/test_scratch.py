from omni_rl.config.resolve import resolve
from omni_rl.errors import UserError
BASE = """\
seed: 7
model:
  path: pipeline
algorithm:
  name: fake_grpo
reward: fake_bright
data:
  path: prompts.txt
"""
CASES = [
 ("train:\n  lrr: 1\n", []), ("train:\n  zzz: 1\n", []), ("group_size: 4\n", []), ("tran: {}\n", []),
 ("train: {lr: fast}\n", []), ("train:\n  iterations: 2.5\n  warmup: -1\n  betas: [1]\n  compile: 3\n", []),
 ("rollout: {sde: {type: cpss}}\n", []), ("rollout: {steps: true}\n", []), ("rollout:\n", []), ("train: [1]\n", []),
 ("rollout: {call: {x: no}}\n", []), ("gate: maybe\n", []), ("train:\n  ema: 3\n", []), ("tracker: [fake_board, {name: fake_board, evry: 2}]\n", []),
 ("", ["train.lrr=1"]), ("", ["train.lr=x"]), ("", ["train.lr"]), ("", ["train.lr="]), ("", ["=1"]), ("", ["seed.x=1"]), ("", ["reward.3.weight=1"]), ("", ["reward.weigth=1"]),("", ["train.lr={a: "]),("", ["--train.lr=1"]),("", ["reward[0].weight=1"]),
 ("", ["algorithm.clip_rang=1"]), ("", ["algorithm.clip_range=0"]), ("", ["algorithm.kl.bta=0"]), ("", ["algorithm.kl.of=men"]), ("", ["algorithm.name=fake_grop"]), ("", ["algorithm.name=null"]),
 ("", ["rollout.group_size=1"]), ("", ["rollout.group_size=1", "algorithm.name=fake_lonely"]), ("", ["rollout.call.num_inference_steps=3", "validation.call.prompt_embeds=1"]),
 ("", ["train.mini_batch_prompts=9"]), ("", ["device=gpu"]), ("", ["model.path=pipelin"]), ("", ["model.path=org/name"]), ("", ["model.path=prompts.txt"]), ("", ["model.path=."]),
 ("", ["data.path=prompt.txt"]), ("", ["data.path=nowhere/prompt.txt"]), ("", ["model.foo=1"]), ("", ["reward=[]"]), ("", ["reward=null"]), ("", ["model.lora.targets=[1]"]),("", ["model.lora={targets: {a: 1}, rank: -1}"]),
 ("", ["data.format=csv"]), ("", ["rollout.engine=vllm-omni"]), ("", ["plugins=[./nope.py]"]), ("", ["train.lr=.nan"]), ("", ["seed=null","validation.data=prompts.txt"]), ("", ["data.path=prompts"]),
 ("", ["rollout.x=1","rollout.y=1","rollout.z=1","train.x=1","train.y=1","train.z=1","train.w=1","train.v=1","train.u=1","train.t=1"]),
 ("", ["model.plugin=foo"]), ("", ["launcher=ray"]), ("", ["tracker=null", "validation.reward=fake_judge", "validation.reward.treshold=1"]),
]
def test_it(written, capsys):
    with capsys.disabled():
        print()
        for more, over in CASES:
            print("-----", repr(more), over)
            try:
                print(resolve(written(more), over).config)
            except UserError as e: print(type(e).__name__, e)
        for base in ["", "model: {}\n", "- a\n", "model: {path: pipeline}\nalgorithm: {name: fake_grpo}\n", "model: x\nalgorithm: 3\nreward: 5\ndata: {}\n"]:
            print("-----", repr(base))
            try:
                print(resolve(written(base=base)).config)
            except UserError as e: print(type(e).__name__, e)
