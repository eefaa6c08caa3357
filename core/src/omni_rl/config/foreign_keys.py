"""Answers for keys of other trainers, which users expect here under the same name.

The most similar key of omni-rl would be a misleading suggestion: ``gradient_accumulation_steps`` looks like
``gradient_checkpointing``.
"""

from __future__ import annotations

from omni_rl.config.yaml_file import KeyPath

_CALL = "it is an argument of the pipeline: set rollout.call.{key}"
_ADAPTER = (
    "training starts from the weights in model.path. Fuse the adapter into them first, with diffusers: "
    "pipe.load_lora_weights(...); pipe.fuse_lora(); pipe.unload_lora_weights(); pipe.save_pretrained(folder)"
)
_SCHEDULE = "the learning rate is constant after train.warmup updates of linear warm-up; there is no other schedule"
_OPTIMIZER = "the optimizer is AdamW, with train.lr, train.betas, train.eps and train.weight_decay; there is no other"
_ONE_FILE = "data.path takes one file, whose format is txt, jsonl or parquet; write the data set into one"
_BATCH = "set train.mini_batch_prompts (prompts per update) and train.micro_batch_size (samples per forward pass)"
_STEPS = "set train.iterations"
_SIGMAS = (
    "the pipeline's own scheduler computes the schedule from rollout.steps; a list of sigmas cannot be given. "
    "For a few-step model set rollout.steps and its scheduler's scheduler_config.json"
)
_LENGTH = "set rollout.call.max_sequence_length, if the pipeline has this argument"
_QUANTISED = "the denoiser trains in fp32 or bf16 (see precision); quantised weights cannot be trained"

_ANSWERS: tuple[tuple[str, str], ...] = (
    (
        "gradient_accumulation_steps gradient_accumulation accumulate_grad_batches grad_accum",
        "it is derived from train.mini_batch_prompts (prompts per update) and train.micro_batch_size "
        "(samples per forward pass)",
    ),
    ("batch_size train_batch_size per_device_train_batch_size ppo_mini_batch_size mini_batch_size", _BATCH),
    ("ppo_micro_batch_size ppo_micro_batch_size_per_gpu micro_batch", "set train.micro_batch_size"),
    ("optimizer optim optimizer_type use_8bit_adam adam_8bit optim_args muon", _OPTIMIZER),
    ("adam_beta1 adam_beta2 beta1 beta2", "set train.betas, such as [0.9, 0.999]"),
    ("adam_epsilon adam_eps epsilon", "set train.eps"),
    ("adam_weight_decay", "set train.weight_decay"),
    ("lr_scheduler lr_scheduler_type lr_scheduler_kwargs lr_schedule scheduler schedule min_lr lr_decay", _SCHEDULE),
    ("warmup_steps lr_warmup_steps num_warmup_steps warmup_ratio", "set train.warmup, a number of updates"),
    ("learning_rate", "set train.lr"),
    ("epochs num_epochs num_train_epochs max_steps max_train_steps total_steps num_iterations steps", _STEPS),
    ("ppo_epochs num_inner_epochs", "set train.inner_epochs"),
    ("gradient_clipping max_norm clip_grad clip_grad_norm grad_clip", "set train.max_grad_norm"),
    ("mixed_precision bf16 fp16 dtype torch_dtype", "set precision: bf16 or precision: fp32"),
    ("use_gradient_checkpointing activation_checkpointing", "set train.gradient_checkpointing"),
    ("ema_decay use_ema", "set train.ema: {decay: 0.95}"),
    ("save_steps save_freq save_interval save_every checkpointing_steps", "set train.checkpoint_every"),
    ("eval_steps eval_freq eval_every eval_interval", "set validation.every"),
    ("save_total_limit max_checkpoints", "set train.keep_checkpoints"),
    ("output_dir run_dir save_dir", "give the folder on the command line: omni-rl train CONFIG --run-dir FOLDER"),
    ("report_to logger logging wandb use_wandb", "set tracker, such as tracker: [{name: tensorboard}]"),
    ("num_generations num_samples num_images_per_prompt num_image_per_prompt n", "set rollout.group_size"),
    ("num_inference_steps num_steps sampling_steps inference_steps", "set rollout.steps"),
    ("eta sde_eta", "set rollout.sde.noise_level"),
    ("sigmas timesteps", _SIGMAS),
    ("max_prompt_length max_sequence_length", _LENGTH),
    ("guidance_scale height width resolution num_frames negative_prompt true_cfg_scale cfg_scale", _CALL),
    ("lora_rank r", "set model.lora.rank"),
    ("lora_alpha", "set model.lora.alpha"),
    ("target_modules lora_target_modules", "set model.lora.targets"),
    ("use_lora", "set model.lora: {} for adapters of the default size, or leave it out to train all weights"),
    (
        "use_rslora rslora rs_lora",
        "adapters are scaled by alpha / rank. For the scale of rsLoRA, alpha / sqrt(rank), multiply model.lora.alpha "
        "by sqrt(rank)",
    ),
    ("use_dora dora lora_type", "adapters are plain LoRA; there is no other kind"),
    ("dropout lora_dropout", "rollout and replay of a step must agree, so that adapters have no dropout"),
    ("lora_path adapter adapter_path init_adapter init_lora init_from adapter_name_or_path weights", _ADAPTER),
    ("resume_from_checkpoint resume", "continue a run with: omni-rl resume RUN_DIRECTORY"),
    (
        "variant",
        "files of a variant are not loaded. Save the pipeline without it: "
        "DiffusionPipeline.from_pretrained(folder, variant='fp16').save_pretrained(other_folder)",
    ),
    ("quantization quantization_config quantize load_in_8bit load_in_4bit bnb_4bit nf4", _QUANTISED),
    ("pretrained_model model_name pretrained_model_name_or_path model_name_or_path model_id name", "set model.path"),
    ("revision trust_remote_code custom_pipeline", "download the pipeline into a folder and give it as model.path"),
    ("dataset dataset_name train_file train_files files prompt_file prompts_file glob paths split", _ONE_FILE),
    ("prompt_key text_column caption_column prompt_col", "set data.prompt_column"),
    ("image_column image_key images", "set data.media: {image: COLUMN}, with the column that has the files"),
    ("reward_fn reward_function reward_funcs rewards reward_model", "set reward, such as reward: [{name: ocr}]"),
    ("num_gpus gpus nproc_per_node num_processes world_size nnodes", "the launcher starts processes: see launcher"),
    ("random_seed", "set seed"),
)
_BY_KEY = {key: answer for keys, answer in _ANSWERS for key in keys.split()}
_SECTIONS_OF_NAMED = {"algorithm", "reward", "tracker"}
"""Sections with plugins of many options: words such as ``beta`` have a meaning of their own there."""


def answer(path: KeyPath) -> str | None:
    """What to do in place of the unknown key at ``path``; None where it is no well-known key of another trainer."""
    if not path or (len(path) > 1 and path[0] in _SECTIONS_OF_NAMED):
        return None
    found = _BY_KEY.get(str(path[-1]).lower())
    return None if found is None else found.replace("{key}", str(path[-1]))
