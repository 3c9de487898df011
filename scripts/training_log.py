"""What a training reports while it runs: shown, and recorded in MLflow and, if asked for, in W&B."""

from typing import TYPE_CHECKING

from scripts.display import epoch_line, say
from scripts.wandb_tracking import WandbTracking

if TYPE_CHECKING:
    from common.tracking import Tracker


class TrainingLog:
    """Takes the reports of one training's epochs."""

    def __init__(self, tracker: "Tracker", run_id: str, wandb: WandbTracking, *, is_continued: bool) -> None:
        """`is_continued`: MLflow's run has what was reported before an interruption."""
        from tune.step_losses import STEP_LOSS

        self._tracker = tracker
        self._run_id = run_id
        self._wandb = wandb
        self._recorded = tracker.logged_steps(run_id, STEP_LOSS) if is_continued else set()

    def epoch(self, report: dict[str, float]) -> None:
        """Shows and records an epoch, and of its steps those that are not recorded yet: a fault may repeat an epoch."""
        from common.tracking import MetricsAtStep
        from tune.step_losses import STEP_LOSS, of_the_epoch, step_losses

        metrics, epoch = of_the_epoch(report), int(report["epoch"])
        say("  " + epoch_line(metrics))
        losses = {step: loss for step, loss in step_losses(report).items() if step not in self._recorded}
        self._recorded.update(losses)
        of_steps = [MetricsAtStep({STEP_LOSS: loss}, step) for step, loss in losses.items()]
        self._tracker.log(self._run_id, metrics=[MetricsAtStep(metrics, epoch), *of_steps])
        self._wandb.log(metrics, epoch)
