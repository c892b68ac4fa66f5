// Talks to the server under test with nodemailer: smtp_clients.js FOLDER PORT MODE; FOLDER has node_modules, MODE is plain,
// starttls or implicit.
//
// The server's auth script takes joe with the password sesame, and the token "good". Prints one line per message sent.
"use strict";

const [folder, port, mode] = process.argv.slice(2);
const nodemailer = require(require("path").resolve(folder, "node_modules/nodemailer"));

function transport(more) {
  return nodemailer.createTransport({
    host: "127.0.0.1",
    port: Number(port),
    name: "node.example",
    secure: mode === "implicit",
    requireTLS: mode === "starttls",
    ignoreTLS: mode === "plain",
    tls: { rejectUnauthorized: false },
    ...more,
  });
}

async function send(name, more, envelope) {
  const client = transport(more);
  const result = await client.sendMail({
    envelope: envelope || { from: `${name}@from.example`, to: ["c@to.example", "e@to.example"] },
    raw: `Subject: ${name}\r\n\r\n.dot\r\nhej\r\n`,
  });
  client.close();
  if (result.rejected.length !== 0 || !result.response.startsWith("250 2.0.0 Ok: queued as ")) {
    throw new Error(JSON.stringify(result));
  }
  console.log("sent", name);
}

async function main() {
  await send("anonymous");
  const account = { user: "joe", pass: "sesame" };
  for (const mechanism of ["PLAIN", "LOGIN", "CRAM-MD5"]) {
    await send(`with-${mechanism.toLowerCase()}`, { auth: account, authMethod: mechanism });
  }
  await send("with-xoauth2", { auth: { type: "OAuth2", user: "joe", accessToken: "good" } });
  for (const auth of [{ user: "joe", pass: "wrong" }, { type: "OAuth2", user: "joe", accessToken: "bad" }]) {
    const refusal = await send("nobody", { auth }).then(() => null, (error) => error);
    if (!refusal || refusal.code !== "EAUTH" || refusal.responseCode !== 535) {
      throw refusal || new Error("a wrong password was taken");
    }
  }
  await send("utf8", {}, { from: "jürgen@from.example", to: ["møte@to.example"] });
  // Many messages over one connection.
  const pool = transport({ pool: true, maxConnections: 1 });
  const raw = "Subject: pooled\r\n\r\nhej\r\n";
  const one = (n) => pool.sendMail({ envelope: { from: `pooled-${n}@from.example`, to: ["c@to.example"] }, raw });
  await Promise.all([1, 2, 3].map(one));
  pool.close();
  console.log("sent pooled");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
