"""Any other method of PEFT on selected modules, under plan, journal and replay."""

from surgery_plugins.surgeries.peft_bridge.surgery import Peft as Peft
