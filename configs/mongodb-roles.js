// Database roles of least privilege, one for each agent. Run as a user that may manage roles, on the database
// that the agents share:
//
//   mongosh "mongodb://admin@db1,db2,db3/carferry?replicaSet=rs0&authSource=admin" configs/mongodb-roles.js
//
// mongosh asks for the password. Running it again brings the roles back to what stands here. For providers that
// do not trust each other, run it on one database each: roles cannot divide one collection, so every miner's
// user can write to every deal of its database.

// Each makes its collections by inserting into them (carferryMiner only minerstates); neither role deletes or drops.
// A miner-agent that adopts deals (`setting.adopt`) records them: give its role `insert` on offlinedeals, too.
// Plain JSON between the braces: the tests read it out of this file and hold the agents to it.
const ROLES =
{
  "carferryClient": [
    { "collection": "cars", "actions": ["find", "insert", "update", "createIndex", "listIndexes"] },
    { "collection": "dealintents", "actions": ["find", "insert", "update", "createIndex", "listIndexes"] },
    { "collection": "offlinedeals", "actions": ["find", "insert", "update", "createIndex", "listIndexes"] },
    { "collection": "packfiles", "actions": ["find", "insert", "update", "createIndex", "listIndexes"] },
    { "collection": "packpieces", "actions": ["find", "insert", "update", "createIndex", "listIndexes"] },
    { "collection": "packplans", "actions": ["find", "insert", "update", "createIndex", "listIndexes"] }
  ],
  "carferryMiner": [
    { "collection": "cars", "actions": ["find", "listIndexes"] },
    { "collection": "minerstates", "actions": ["find", "insert", "update"] },
    { "collection": "offlinedeals", "actions": ["find", "update", "changeStream", "listIndexes"] }
  ]
}
;

const database = db.getName();
if (["admin", "config", "local", "test"].includes(database)) {
  throw new Error(`"${database}" is not the agents' database: name it in the connection string, before the ?`);
}
for (const [role, grants] of Object.entries(ROLES)) {
  const privileges = grants.map(({ collection, actions }) => ({ resource: { db: database, collection }, actions }));
  if (db.getRole(role) === null) {
    db.createRole({ role, privileges, roles: [] });
    print(`made ${role} on ${database}`);
  } else {
    db.updateRole(role, { privileges, roles: [] });
    print(`${role} on ${database} is up to date`);
  }
}

// A user for each agent, so that each can be locked out alone. With a password (mongodb.username and
// mongodb.passwordFile in the agent's file):
//
//   db.getSiblingDB("admin").createUser({
//     user: "client-box1",
//     pwd: passwordPrompt(),
//     roles: [{ role: "carferryClient", db: "carferry" }],
//   });
//   db.getSiblingDB("admin").createUser({
//     user: "miner-f01000",
//     pwd: passwordPrompt(),
//     roles: [{ role: "carferryMiner", db: "carferry" }],
//     authenticationRestrictions: [{ clientSource: ["10.0.0.6"] }],     // optional: from this address alone
//   });
//
// With a certificate instead (mongodb.tlsCertificateKeyFile and authMechanism MONGODB-X509). The name is the
// certificate's subject as `openssl x509 -in agent.pem -noout -subject -nameopt RFC2253` prints it. Its O, OU and
// DC must not be those of the servers' own certificates, or mongod takes the agent for a member of the cluster:
//
//   db.getSiblingDB("$external").createUser({
//     user: "CN=miner-f01000,O=carferry-agents",
//     roles: [{ role: "carferryMiner", db: "carferry" }],
//   });
