"""Cast: other dtypes for parameters, never for tables of positions or complex numbers."""

from surgery_plugins.surgeries.cast.surgery import Cast as Cast
