"""Which student ships: those of the best checks, and what decides between them once the budget is used up."""

from collections.abc import Sequence

from distilrl import stats
from distilrl.config import TrainConfig
from distilrl.events import Phase, Watch
from distilrl.runs import RunFolder
from distilrl.tasks import Task

Found = Sequence[tuple[float, float | None]]
"""Return and score of a student in each task."""


class Finalists:
    """The best checks of a run, the best first; each task keeps their students of it."""

    def __init__(self, tasks: list[Task], config: TrainConfig) -> None:
        self.tasks, self.config = tasks, config
        self.values: list[float] = []
        """By what the checks are compared; part of the checkpoint."""

    def add(self, found: Found) -> None:
        """Remembers the students of this check, if it is among the best; of equal ones the later is better."""
        value = self._value(found)
        place = next((place for place, other in enumerate(self.values) if value >= other), len(self.values))
        self.values.insert(place, value)
        del self.values[self.config.stop.finalists :]
        for task in self.tasks:
            task.keep(place)

    def forget(self) -> None:
        """Begins again: what was best does not count any more."""
        self.values = []
        for task in self.tasks:
            task.kept = []

    def again(self, place: int, turn: int, watch: Watch, *, paired: bool = False) -> list[tuple[float, float | None]]:
        """Return and score of the student in this place on episodes that no check has; others at each turn.

        Args:
            place: among the best checks.
            turn: of the episodes.
            watch: told of them as they end.
            paired: the teacher plays them too, and the score is against what it makes there.
        """
        watch(Phase("finalists"))
        return [task.again(place, turn, watch, paired=paired) for task in self.tasks]

    def lower(self, found: Found) -> None:
        """Compares the best student by what it made on other episodes from now on: a check that was luck does not
        stand in the way of the others.
        """
        # in checks' scores, whose 0 may lie elsewhere than that of whole episodes
        known = zip(self.tasks, found, strict=True)
        value = self._value([(mean, task.selection.score(mean)) for task, (mean, _) in known])
        del self.values[0]
        place = sum(other > value for other in self.values)
        self.values.insert(place, value)
        for task in self.tasks:
            task.kept.insert(place, task.kept.pop(0))

    def meet(self, turn: int, watch: Watch) -> str:
        """Lets them play the other episodes of this turn, of which the best alone stays; says how it was found, empty
        where there is one.
        """
        count = len(self.values)
        if count < 2:
            return ""
        values = [self._value(self.again(place, turn, watch)) for place in range(count)]
        best = values.index(max(values))
        for task in self.tasks:
            task.kept = [task.kept[best]]
        return f"best of {count} checks on {self.config.stop.final_episodes} other episodes"

    def save(self, folder: RunFolder) -> None:
        """Writes the best student of each task."""
        for task in self.tasks:
            home = folder.of_task(task.name) if len(self.tasks) > 1 else folder
            home.save_student(task.best_network(), task.head, task.info, self.config.recipe)

    def _value(self, found: Found) -> float:
        """By what students are compared: the return, or the mean score of several tasks; where there is an enough, the
        share of the teacher's return up to that.
        """
        enough, (mean, _) = self.config.stop.enough, found[0]
        if len(found) > 1:
            return stats.mean([min(each or 0.0, 1.0 if enough is None else enough) for _, each in found])
        share = self.tasks[0].selection.share(mean)
        return mean if enough is None or share is None else min(share, enough)
