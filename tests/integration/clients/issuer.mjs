// An OpenID Connect provider on loopback: node issuer.mjs
// It prints its address. After a line on standard input it signs with a new key, and tells only that.

import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.env.KERNELPROTO_ISSUER, "/"));
const { Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));

function newKey() {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg: "ES256" };
}

function client(name) {
  return {
    client_id: name,
    client_secret: `${name}-secret`,
    grant_types: ["client_credentials"],
    id_token_signed_response_alg: "ES256",
    redirect_uris: [],
    response_types: [],
  };
}

function newHandler(url) {
  const provider = new Provider(url, {
    jwks: { keys: [newKey()] },
    clients: [client("ada"), client("root")],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, audience) => ({
          scope: "kernels",
          audience,
          accessTokenFormat: "jwt",
          accessTokenTTL: 300,
          jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
    extraTokenClaims: (_, token) => ({ groups: token.clientId === "root" ? ["admins"] : [] }),
  });
  return provider.callback();
}

let handle = null;
const server = createServer((request, response) => handle(request, response));
server.listen(0, "127.0.0.1", () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  handle = newHandler(url);
  console.log(`issuer ${url}`);
  createInterface({ input: process.stdin }).on("line", () => {
    handle = newHandler(url);
    console.log("rotated");
  });
});
