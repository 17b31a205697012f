// The build puts these two beside the page; the checker need not look inside.
declare module "*/ort.wasm.min.mjs";
declare module "*/tokenizers.min.mjs";
