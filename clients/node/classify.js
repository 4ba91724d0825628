// Ask where a piece belongs, from Node: nothing but gRPC and the .proto files.
//
//     npm install @grpc/grpc-js @grpc/proto-loader
//     node clients/node/classify.js MODEL PIECE.png [ADDRESS]
//
// A server with TLS and tokens: TESSERA_TLS_CA and TESSERA_TOKEN_FILE name the files.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const protos = path.join(__dirname, "..", "..", "protos");
const options = { includeDirs: [protos], keepCase: true, longs: Number, defaults: true };
const definition = protoLoader.loadSync("tessera/api/inference/v1/puzzle.proto", options);
const { PuzzleService } = grpc.loadPackageDefinition(definition).tessera.api.inference.v1;

const [model, piece, address = "127.0.0.1:8001"] = process.argv.slice(2);
const { TESSERA_TLS_CA: ca, TESSERA_TOKEN_FILE: tokenFile } = process.env;
const credentials = ca ? grpc.credentials.createSsl(fs.readFileSync(ca)) : grpc.credentials.createInsecure();
const metadata = new grpc.Metadata();
if (tokenFile) {
  metadata.set("authorization", `Bearer ${fs.readFileSync(tokenFile, "utf8").trim()}`);
}
const client = new PuzzleService(address, credentials);
const request = { model: { model }, image: fs.readFileSync(piece) };

client.ClassifyCell(request, metadata, { deadline: Date.now() + 10000 }, (error, answer) => {
  if (error) {
    console.error(`${grpc.status[error.code]}: ${error.details}`);
    process.exit(1);
  }
  console.log(`${model} version ${answer.answered_by.version}, grid ${answer.columns} x ${answer.rows}`);
  for (const cell of answer.candidates) {
    console.log(`  column ${cell.column}  row ${cell.row}  ${(100 * cell.probability).toFixed(2)} %`);
  }
  client.close();
});
