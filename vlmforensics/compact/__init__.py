"""The compact model: a stock LLaVA for any CPU, with our adapter and label head."""
