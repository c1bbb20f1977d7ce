"""Templates: `{{…}}` in the values of a definition, compiled once and resolved against a run's data. Pure."""

from perdure_engine.templates.errors import TemplateError, TemplateSyntaxError
from perdure_engine.templates.expression import Expression, compile_expression
from perdure_engine.templates.paths import Reference
from perdure_engine.templates.scope import ROOTS, Lazy, Scope
from perdure_engine.templates.template import Template, compile_template

__all__ = [
    "ROOTS",
    "Expression",
    "Lazy",
    "Reference",
    "Scope",
    "Template",
    "TemplateError",
    "TemplateSyntaxError",
    "compile_expression",
    "compile_template",
]
