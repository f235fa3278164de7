"""Run pytest in a fork of a process that has torch imported: a mutation run starts it hundreds of times.

    python scripts/mutation/warm_pytest.py serve SOCKET           wait for calls, in the folder to be tested
    python -S scripts/mutation/warm_pytest.py SOCKET TEST ...     run these tests there; exits as pytest does

clbench itself is imported in the fork, so that it is the one that was just mutated.
"""

import os
import signal
import socket
import sys

LONGEST = 120  # seconds; a mutant that never ends counts as killed


def main() -> None:
    """Serve, or ask."""
    first, *rest = sys.argv[1:]
    if first == "serve":
        serve(rest[0])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(first)
        client.sendall("\0".join(rest).encode())
        client.shutdown(socket.SHUT_WR)
        sys.exit(int(client.recv(16) or b"1"))


def serve(path: str) -> None:
    """Answer calls one at a time, for ever."""
    sys.path.insert(0, os.getcwd())
    import hypothesis
    import numpy  # noqa: F401
    import peft  # noqa: F401
    import pytest
    import rich.table  # noqa: F401
    import rouge_score.rouge_scorer  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    quick = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # whoever fails need not be shrunk
    hypothesis.settings.register_profile(
        "mutation", max_examples=20, deadline=None, derandomize=True, database=None, phases=quick
    )
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        while True:
            client, _ = server.accept()
            words = b"".join(iter(lambda client=client: client.recv(4096), b"")).decode().split("\0")
            child = os.fork()
            if child == 0:
                signal.alarm(LONGEST)
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
                flags = ["-n", "0", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile", "mutation"]
                flags += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # what is imported above, plugins among it
                os._exit(int(pytest.main([*words, *flags])))
            _, status = os.waitpid(child, 0)
            client.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())
            client.close()


if __name__ == "__main__":
    main()
