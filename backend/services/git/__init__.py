"""The git service (port 6005): snapshots of the projects' files, their history and its diffs.

It reads the folders that the filesystem service writes and keeps a bare repository for each project in its
own data folder, so that nothing of git lies among the user's files. The repositories are ordinary ones:
``git log``, ``git clone`` and ``git gc`` work on them.

A project with an empty folder can have a snapshot: its commit has an empty tree, and so has the commit after
the last file was deleted. A project without a folder has no files, which is a 404, so that a disk that is
missing is never recorded as the deletion of everything.
"""

from backend.services.git.app import create_app, main

__all__ = ["create_app", "main"]
