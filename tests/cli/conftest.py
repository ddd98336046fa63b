import pytest

from fedkit.cli.main import main


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder; returns (status, stdout, stderr) and never a traceback."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = 0
        try:
            main(list(words))
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run
