// Ask where a piece belongs, from Node: nothing but gRPC and the .proto files.
//
//     npm install @grpc/grpc-js @grpc/proto-loader
//     node clients/node/classify.js MODEL PIECE.png [ADDRESS]
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const protos = path.join(__dirname, "..", "..", "protos");
const definition = protoLoader.loadSync("tessera/api/inference/v1/puzzle.proto", { includeDirs: [protos], keepCase: true, longs: Number });
const { PuzzleService } = grpc.loadPackageDefinition(definition).tessera.api.inference.v1;

const [model, piece, address = "127.0.0.1:8001"] = process.argv.slice(2);
const client = new PuzzleService(address, grpc.credentials.createInsecure());
const request = { model: { model }, image: fs.readFileSync(piece) };

client.ClassifyCell(request, { deadline: Date.now() + 5000 }, (error, answer) => {
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
