"""An exported model behind HTTP: `robustmdiff serve`. Without torch."""
