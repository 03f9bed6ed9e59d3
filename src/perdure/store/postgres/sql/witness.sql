-- What is left of the last commit that this process knows to be durable.

-- name: find
SELECT
    (SELECT epoch FROM scopes WHERE scope = $1), version, run,
    EXISTS (SELECT FROM deletions WHERE unit = $2)
FROM (SELECT) AS one LEFT JOIN units ON id = $2;
