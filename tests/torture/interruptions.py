"""Runs that are killed, can write no more, have no locks, have company, or lose their folder. Verdicts: "" or what was lost."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.torture.children import DISK_IS_FULL, Child, Ending, FileEvents, be_refused, die, run, without_locks
from tests.torture.scene import SEEDS, Scene, fault

CHAIN = 3  # kills of one run before it may finish


def kills_at_events(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Kill a run just before each of its file events, in turn, or before as many as asked for; and again when it goes on."""
    step = max(1, CHAIN * scene.events // count)
    firsts = [*range(1 + chance.randrange(step), scene.events + 1, step)]
    yield from _killed(scene, count, lambda folder: _killed_at(scene, folder, firsts, chance))


def _killed_at(scene: Scene, folder: Path, firsts: list[int], chance: random.Random) -> Ending:
    fresh = not folder.exists()
    at = firsts.pop(0) if fresh and firsts else chance.randint(1, scene.events)

    def act() -> None:
        FileEvents(folder, at, die)
        scene.command(folder)()

    return run(act)


def kills_at_random(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Kill a run at any moment, three times over."""
    yield from _killed(scene, count, lambda folder: _killed_after(scene, scene.command(folder), chance))


def kills_of_groups(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Kill two processes at once that make two runs in one folder."""

    def both(folder: Path) -> Ending:
        def act() -> None:
            seed = SEEDS[os.fork() == 0]  # one makes the first run, the other the second
            scene.command(folder, seeds=f"{seed},")()

        return _killed_after(scene, act, chance)

    yield from _killed(scene, count, both, SEEDS)


def _killed_after(scene: Scene, act: Callable[[], object], chance: random.Random) -> Ending:
    child = Child(act)
    time.sleep(chance.uniform(0.0, scene.seconds))
    child.kill()
    return child.wait()


def _killed(
    scene: Scene, count: int, attempt: Callable[[Path], Ending], seeds: tuple[int, ...] = (1,)
) -> Iterator[str]:
    """Let a run be killed, at most three times, then finish; one verdict a kill."""
    done = 0
    while done < count:
        folder, kills, wrong = scene.new_folder(), 0, ""
        for _ in range(min(CHAIN, count - done)):
            ending = attempt(folder)
            kills += ending.code == -9
            if ending.code != -9:
                wrong = fault(ending)
                break
        wrong = wrong or scene.finish(folder, seeds)
        done += kills
        yield from [f"{folder.name}: {wrong}" if wrong else ""] * kills


def full_disk(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Let a run meet its end of space: a small disk (where one can be mounted), a limit to a file's size, a refused call."""
    ways = [_call_refused, _file_limited, *([_small_disk] if os.geteuid() == 0 else [])]
    for number in range(count):
        folder = scene.new_folder()
        yield ways[number % len(ways)](scene, folder, chance)


def _call_refused(scene: Scene, folder: Path, chance: random.Random) -> str:
    at = chance.randint(1, scene.events)

    def act() -> None:
        FileEvents(folder, at, DISK_IS_FULL)
        scene.command(folder)()

    return _then_finish(scene, folder, run(act), f"no space at event {at}")


def _file_limited(scene: Scene, folder: Path, chance: random.Random) -> str:
    largest = max(path.stat().st_size for path in scene.whole.rglob("*"))
    limit = int(largest * chance.random() ** 3)

    def act() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        scene.command(folder)()

    return _then_finish(scene, folder, run(act), f"files of {limit} bytes at most")


def _small_disk(scene: Scene, folder: Path, chance: random.Random) -> str:
    folder.mkdir()
    pages = chance.randint(1, 20)
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, f"size={4 * pages}k,mode=777", "tmpfs", folder], capture_output=True).returncode:
        folder.rmdir()
        return _file_limited(scene, folder, chance)  # no right to mount, in many a container
    try:
        ending = run(scene.command(folder))
        subprocess.run(["mount", "-o", "remount,size=16m", folder], check=True)
        wrong = fault(ending) or _undisturbed(scene, folder)
    finally:
        subprocess.run(["umount", folder], check=True)
    return f"{folder.name}: a disk of {pages} pages: {wrong}" if wrong else ""


def _undisturbed(scene: Scene, folder: Path) -> str:
    ending = run(scene.command(folder))
    return fault(ending) or scene.differs(folder)


def _then_finish(scene: Scene, folder: Path, ending: Ending, what: str) -> str:
    """Return what is wrong with a disturbed run's end, and with what the same command then makes of it."""
    wrong = fault(ending)
    if not wrong and ending.code == 0:
        wrong = scene.differs(folder) and "ends with 0, but " + scene.differs(folder)
    wrong = wrong or scene.finish(folder)
    return f"{folder.name}: {what}: {wrong}" if wrong else ""


def no_locks(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Let no lock be had, for each reason, every second time after a kill."""
    none, refused = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS), (errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EIO)
    for number in range(count):
        folder, code = scene.new_folder(), [*none, *refused][number % 7]

        def act(
            folder: Path = folder, code: int = code, at: int = chance.randint(1, scene.events) * (number % 2)
        ) -> None:
            without_locks(code)
            FileEvents(folder, at, die)
            scene.command(folder)()

        ending = run(act)
        if ending.code == -9:
            ending = run(lambda act=act: act(at=0))  # type: ignore[misc]
        what = errno.errorcode[code]
        if code in none and ending.code:
            yield f"{folder.name}: {what}: ends with {ending.code}: {ending.errors}"
        else:
            yield _then_finish(scene, folder, ending, what)


def read_only(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Take the right to write from a folder, at the beginning or at any later moment."""
    for number in range(count):
        folder = scene.new_folder()
        folder.mkdir()
        at = chance.randint(1, scene.events) if number else 1

        def act(folder: Path = folder, at: int = at) -> None:
            be_refused()
            FileEvents(folder, at, lambda: folder.chmod(stat.S_IRUSR | stat.S_IXUSR))
            scene.command(folder)()

        ending = run(act)
        folder.chmod(0o755)
        assert number or ending.code, "nothing was refused"
        yield _then_finish(scene, folder, ending, f"read-only at event {at}")


def two_processes(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Let two processes make one run."""
    yield from _together(scene, chance, count, 2)


def four_processes(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Let four processes make one run."""
    yield from _together(scene, chance, count, 4)


def _together(scene: Scene, chance: random.Random, count: int, processes: int) -> Iterator[str]:
    for number in range(count):
        folder = scene.new_folder()
        children = []
        for _ in range(processes):
            children.append(Child(scene.command(folder)))
            time.sleep(chance.choice([0.0, chance.uniform(0.0, scene.seconds / 2)]))
        if number % 2:
            chance.choice(children).kill()
        endings = [child.wait() for child in children]
        strange = [fault(ending, (0, 2, -9)) for ending in endings]
        strange += [ending.errors for ending in endings if ending.code == 2 and "is being made by" not in ending.errors]
        wrong = next(filter(None, strange), "")
        if not wrong and not any(ending.code in (0, -9) for ending in endings):
            wrong = "each of them left the run to the others"
        wrong = wrong or scene.finish(folder)
        yield f"{folder.name}: {processes} processes: {wrong}" if wrong else ""


def deleted_folder(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Delete the folder at any file event; every second time, make it again."""
    for number in range(count):
        folder, at, again = scene.new_folder(), chance.randint(1, scene.events), number % 2 == 1

        def vanish(folder: Path = folder, again: bool = again) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            if again:
                folder.mkdir(exist_ok=True)

        def act(folder: Path = folder, at: int = at, vanish: Callable[[], None] = vanish) -> None:
            FileEvents(folder, at, vanish)
            scene.command(folder)()

        yield _then_finish(scene, folder, run(act), f"deleted{' and made again' * again} at event {at}")
