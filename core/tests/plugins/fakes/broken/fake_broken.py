"""Cannot be imported."""

import package_that_does_not_exist


class Reward:
    score = package_that_does_not_exist.score
