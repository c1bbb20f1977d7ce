"""Settings, from the environment (PERDURE_…) or from code."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.errors import PerdureError
from perdure.tasks.settings import TaskSettings

_PREFIX = "PERDURE_"
