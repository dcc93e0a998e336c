"""Head: new classes for a classifier, fresh values for any head."""

from surgery_plugins.surgeries.head.surgery import Head as Head
