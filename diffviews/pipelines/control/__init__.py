"""Control rates: how often a layer masked by a class's average makes that class, with controls, intervals and costs."""
