"""A job whose result is a view of other files, which is made anew when these or the recipe have changed."""

from collections.abc import Sequence

from distilray.config.recipe import load_recipe
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.job import C, Job
from distilray.runtime.run_folder import CONFIG_FILE, MANIFEST_FILE, RunFolder, read_manifest


class ViewJob(Job[C]):
    """Where another job refuses a folder with a run of other inputs, this one writes its files again."""

    def execute(self, recipe: str, overrides: Sequence[str] = ()) -> RunFolder:
        """As of every job.

        Raises:
            InputError: anything that the user can mend; also a folder that holds a run of another job.
        """
        config = load_recipe(recipe, overrides, self.config_class)
        manifest = storage.join(config.run_dir, MANIFEST_FILE)
        if storage.exists(manifest) and read_manifest(config.run_dir)["content"]["job"] == self.name:
            try:
                RunFolder(self.name, config, self.inputs(config)).complete_manifest()
            except InputError:
                self.plan(config)  # what is there stays when the new inputs cannot be used
                for name in (MANIFEST_FILE, CONFIG_FILE):
                    storage.remove_file(storage.join(config.run_dir, name))
        return super().execute(recipe, overrides)
