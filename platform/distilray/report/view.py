"""Jobs whose outputs are derived views, which are written again when the inputs or the recipe have changed."""

from collections.abc import Sequence

from distilray.config.recipe import load_recipe
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.job import C, Job
from distilray.runtime.run_folder import CONFIG_FILE, MANIFEST_FILE, RunFolder, read_manifest


class ViewJob(Job[C]):
    """A job that overwrites the outputs of its run if the inputs have changed, instead of refusing the folder."""

    def execute(self, recipe: str, overrides: Sequence[str] = ()) -> RunFolder:
        """Run the job.

        Raises:
            InputError: the input is invalid, or the folder contains a run of another job.
        """
        config = load_recipe(recipe, overrides, self.config_class)
        manifest = storage.join(config.run_dir, MANIFEST_FILE)
        if storage.exists(manifest) and read_manifest(config.run_dir)["content"]["job"] == self.name:
            try:
                RunFolder(self.name, config, self.inputs(config)).complete_manifest()
            except InputError:
                self.plan(config)  # keep the outputs if the new inputs are invalid
                for name in (MANIFEST_FILE, CONFIG_FILE):
                    storage.remove_file(storage.join(config.run_dir, name))
        return super().execute(recipe, overrides)
