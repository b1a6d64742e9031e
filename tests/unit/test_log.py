"""What is written to the log file and to standard error, in which form."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from migrator import log

RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def test_an_error_is_one_json_object_in_the_file_and_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(path=tmp_path / "log", form="json")
    logging.getLogger("runtime.container").error("bundle %s: no\nsuch", "/ä")
    record = json.loads((tmp_path / "log").read_text())
    assert re.fullmatch(RFC3339, record.pop("time"))
    assert record == {"level": "error", "msg": "bundle /ä: no such"}
    assert capsys.readouterr().err == "migrator: bundle /ä: no such\n"


def test_the_text_form_is_key_and_value(tmp_path: Path) -> None:
    log.configure(path=tmp_path / "log", form="text")
    logging.getLogger("criu_rpc").warning('said "no"')
    line = (tmp_path / "log").read_text()
    assert re.fullmatch(rf'time="{RFC3339}" level=warning msg="said \\"no\\""\n', line)


@pytest.mark.parametrize("form", log.FORMATS)
def test_what_a_message_quotes_is_nothing_that_a_terminal_obeys(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(path=tmp_path / "log", form=form)
    logging.getLogger("runtime").error("%s: no such", "\x1b[31mred\r\x9b\udcff")
    shown = "\\x1b[31mred\\r\\x9b\\udcff: no such"
    assert capsys.readouterr().err == f"migrator: {shown}\n"
    assert json.dumps(shown) in (tmp_path / "log").read_text()


def test_a_warning_goes_to_stderr_only_without_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure()
    logging.getLogger("runtime").warning("first")
    log.configure(path=tmp_path / "log")
    logging.getLogger("runtime").warning("second")
    assert capsys.readouterr().err == "migrator: warning: first\n"


def test_steps_are_in_the_file_and_debugging_only_on_demand(tmp_path: Path) -> None:
    for debug, expected in ((False, 1), (True, 2)):
        path = tmp_path / str(debug)
        log.configure(path=path, debug=debug)
        logging.getLogger("migrator.migrate").info("step")
        logging.getLogger("migrator.migrate").debug("detail")
        assert len(path.read_text().splitlines()) == expected


def test_without_a_file_the_json_form_is_that_of_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure(form="json")
    logging.getLogger("migrator").error("no")
    assert json.loads(capsys.readouterr().err)["level"] == "error"


def test_a_log_file_is_appended_to(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    log.configure(path=tmp_path / "log")
    logging.getLogger("migrator").error("after")
    assert (tmp_path / "log").read_text().startswith("before\ntime=")


QUIET = "import sys; from migrator import log; from criu_rpc.logger import Logger; "
SAYS = "logger = Logger('runtime.x'); logger.{}('a %s', 'word'); "
LOADED = "print('logging' in sys.modules)"


@pytest.mark.parametrize(
    ("configured", "method", "said", "loaded"),
    [
        ("", "debug", "", False),
        ("", "info", "", False),
        ("", "warning", "a word\n", True),
        ("log.configure(); ", "debug", "", False),
        ("log.configure(); ", "warning", "migrator: warning: a word\n", True),
        ("log.configure(form='json'); ", "error", '{"level":"error","msg":"a word",', True),
        ("log.configure(debug=True); ", "debug", "time=", True),
        ("log.configure(); log.configure(debug=True); ", "debug", "time=", True),
        ("import logging; logging.basicConfig(level=0); ", "debug", "DEBUG:runtime.x:a word", True),
    ],
)
def test_logging_is_loaded_when_there_is_something_to_say(
    configured: str, method: str, said: str, loaded: bool
) -> None:
    program = QUIET + configured + SAYS.format(method) + LOADED
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr.startswith(said)
    assert bool(done.stderr) is bool(said)
    assert done.stdout == f"{loaded}\n"


def test_a_log_file_gets_its_first_step_whenever_that_comes(tmp_path: Path) -> None:
    configured = f"log.configure(path=__import__('pathlib').Path({str(tmp_path / 'log')!r})); "
    there = f"assert not open({str(tmp_path / 'log')!r}).read(); "
    program = QUIET + configured + there + SAYS.format("info")
    subprocess.run([sys.executable, "-c", program], check=True)
    assert 'level=info msg="a word"' in (tmp_path / "log").read_text()


def test_what_two_threads_say_first_is_logged_as_configured() -> None:
    program = QUIET + (
        "import time; from threading import Thread; from criu_rpc.logger import configure_with; "
        "log.configure(form='json'); from criu_rpc import logger as module; "
        "configure = module._configure; "
        "configure_with(lambda: (time.sleep(0.3), configure())); "
        "threads = [Thread(target=Logger('runtime.x').warning, args=('here',)) for _ in range(2)]; "
        "[each.start() for each in threads]"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr.count('{"level":"warning","msg":"here"') == 2
