"""Attach: new modules beside a model, fed by what its modules give."""

from surgery_plugins.surgeries.attach.runtime import attached as attached
from surgery_plugins.surgeries.attach.surgery import Attach as Attach
