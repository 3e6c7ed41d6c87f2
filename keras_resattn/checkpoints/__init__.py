def resolve(weights, **kw):
    assert weights is None
