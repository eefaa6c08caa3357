"""The rewards that come with core, and the stream that scores samples while others are sampled."""
