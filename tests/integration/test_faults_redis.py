"""A Redis that has no room or refuses the password: the trainer says so, and goes on when it takes what is written."""

from pathlib import Path

import redis

from tests.fixtures.faults import Service, closing
from tests.fixtures.redis import RedisServer


async def test_no_room_and_a_wrong_password_are_told_and_mended_at_redis(redis_server: RedisServer, tmp_path: Path) -> None:
    trainer = Service("services.trainer", tmp_path, database_url=f"sqlite:///{tmp_path / 'trainer.db'}", redis_url=redis_server.url)
    async with closing(trainer):
        trainer.start()
        await trainer.until(True, dependency="redis")
        with redis.Redis.from_url(redis_server.url) as admin:
            admin.config_set("maxmemory", 1)
            await trainer.until(False, "command not allowed when used memory > 'maxmemory'", dependency="redis")
            admin.config_set("maxmemory", 0)
            await trainer.until(True, dependency="redis")
            admin.config_set("requirepass", "another one")
            admin.auth("another one")
            admin.client_kill_filter(skipme=True, _type="normal")
            await trainer.until(False, "Redis refuses the password", dependency="redis")
            await trainer.until(True)  # it takes jobs all the same
            admin.config_set("requirepass", "")
            await trainer.until(True, dependency="redis")
