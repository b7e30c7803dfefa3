// Validates every example and default in an OpenAPI 3.1 document against the schema that it illustrates. Prints each that
// does not fit, and how many were checked; exits with 1 if any does not fit or none was found.
import { readFileSync } from "node:fs";
import Ajv2020 from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

const document = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ajv = new Ajv2020({ strict: false, allErrors: true });
addFormats(ajv);
for (const format of ["int32", "int64", "uint32", "uint64", "double", "float", "password", "binary"]) {
  ajv.addFormat(format, true);
}
ajv.addSchema({ $id: "kith", components: document.components });

let checked = 0;
let failed = 0;

function check(schema, value, place) {
  checked += 1;
  // References of the document are references to the schema that holds its components.
  const own = JSON.parse(JSON.stringify(schema).replaceAll('"$ref":"#/', '"$ref":"kith#/'));
  const validate = ajv.compile(own);
  if (!validate(value)) {
    failed += 1;
    console.error(`${place}: ${JSON.stringify(value)}: ${ajv.errorsText(validate.errors)}`);
  }
}

function walk(node, place) {
  if (Array.isArray(node)) {
    node.forEach((item, at) => walk(item, `${place}/${at}`));
    return;
  }
  if (node === null || typeof node !== "object") {
    return;
  }
  const isSchema = "type" in node || "$ref" in node || "allOf" in node || "oneOf" in node || "anyOf" in node;
  if (isSchema) {
    for (const word of ["example", "default"]) {
      if (word in node && typeof node.properties?.[word] === "undefined") check(node, node[word], `${place}/${word}`);
    }
    for (const [at, example] of (Array.isArray(node.examples) ? node.examples : []).entries()) {
      check(node, example, `${place}/examples/${at}`);
    }
  } else if ("schema" in node && "example" in node) {
    // A media type or a parameter.
    check(node.schema, node.example, `${place}/example`);
  }
  for (const [name, inner] of Object.entries(node)) {
    if (name !== "example" && name !== "examples" && name !== "default" && name !== "enum") {
      walk(inner, `${place}/${name}`);
    }
  }
}

walk(document, "#");
console.log(`${checked} examples and defaults, ${failed} of them invalid`);
process.exit(failed > 0 || checked === 0 ? 1 : 0);
