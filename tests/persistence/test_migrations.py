async def test_migrates(database):
    from persistence import schema

    assert await schema.drift(database) == []
