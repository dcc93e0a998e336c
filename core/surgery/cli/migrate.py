"""``surgery migrate``: bring a recipe file to the present version of the format."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.session import Session, common


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Change nothing; show what would change.")
@common
def migrate(session: Session, file: Path, check: bool) -> int:
    """Bring a recipe file to the present version of the format.

    What does not change stays byte for byte, comments included; each comment that cannot stay is
    named. With --check, the exit status is 1 where the file is of an older version.
    """
    from surgery.recipe.migrate_file import migrate_file, write_text

    done = migrate_file(file)
    if done.changed and not check:
        write_text(file, done.after)
    data = {
        "file": str(file), "from": done.version, "to": done.target, "changed": done.changed,
        "lost": [{"line": line, "comment": text} for line, text in done.lost],
    }  # fmt: skip
    version = f"{file}: version {done.version} -> {done.target}"
    text = version if done.changed else f"{file}: version {done.target} already"
    session.result(data, done.difference if check and done.changed else text)
    for line, comment in done.lost:
        session.remark(f"{file}:{line}: this comment is gone: {comment}")
    if done.extends:
        session.remark(f"{file} extends {done.extends}, which has a version of its own")
    return int(check and done.changed)
