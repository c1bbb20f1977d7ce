"""The application that the demo's nodes run: ``perdure up --app perdure.demo.application``."""

import perdure
from perdure.demo.workflow import add_tasks

app = perdure.App()
add_tasks(app)
