"""The `embed` job: a further map of a logged layer, single, joint over sigmas, or aligned along them."""



