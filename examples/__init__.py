"""Examples of what users of distilrl bring: environments of their own."""
