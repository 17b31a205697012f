// The build puts this beside the page; the checker need not look inside.
declare module "*/tokenizers.min.mjs";
