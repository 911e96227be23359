"""Which process has claimed which reply. Owners are forgotten when their replies end, so the database notes them."""

from tests.system.cluster import Cluster
from tests.system.polling import until

REMEMBER = """
    CREATE TABLE claims (reply_id text, owner text);
    CREATE FUNCTION remember_claim() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO claims VALUES (NEW.id, NEW.owner); RETURN NULL; END $$;
    CREATE TRIGGER remember_claim AFTER INSERT OR UPDATE OF owner ON replies
        FOR EACH ROW WHEN (NEW.owner IS NOT NULL) EXECUTE FUNCTION remember_claim()"""


async def remember_claims(servers: Cluster) -> None:
    """From now on."""
    await servers.database.execute(REMEMBER)


async def claimers(servers: Cluster) -> int:
    """How many processes have claimed anything."""
    return await servers.number("SELECT count(DISTINCT owner) FROM claims")


async def claimer_of(servers: Cluster, reply_id: str) -> str:
    """The id of the process that has, as soon as one has."""
    rows = await until(lambda: servers.rows("SELECT owner FROM claims WHERE reply_id = $1", reply_id))
    return str(rows[0]["owner"])
