"""What would keep the application from starting, found before a process is started for it."""

import os

from distilray.config.serving import FillMaskAppConfig
from distilray.inference.model_folder import check_model_folder
from serve.auth import keys_from_environment
from serve.routes import routes_for_task


def check_application(config: FillMaskAppConfig) -> None:
    """Looks at the task, the model folders and the API keys.

    Raises:
        InputError: an unknown task, a folder that is no model's, or a bad API key.
    """
    routes_for_task(config.task)
    for folder in (config.model_dir, *config.extra_models.values()):
        check_model_folder(folder)
    keys_from_environment(os.environ)
