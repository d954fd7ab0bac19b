// Runs in Node: loads artifacts in transformers.js and onnxruntime-web, and prints their answers as JSON.
import { readFileSync } from 'node:fs';
import { dirname, basename } from 'node:path';
import { env, pipeline, AutoModel, AutoModelForSequenceClassification, AutoTokenizer } from '@huggingface/transformers';
import { answers as answersOfWeb } from './web.mjs';

env.allowRemoteModels = false;

async function feature_extraction({ folder, texts, options, loading }) {
    const run = await pipeline('feature-extraction', at(folder), loading);
    return (await run(texts, options)).tolist();
}

async function classification({ folder, texts, loading }) {
    const run = await pipeline('text-classification', at(folder), loading);
    return await run(texts, { top_k: null });
}

async function model({ folder, texts, kind, output, loading }) {
    const kinds = { AutoModel, AutoModelForSequenceClassification };
    const tokenizer = await AutoTokenizer.from_pretrained(at(folder), loading);
    const network = await kinds[kind].from_pretrained(at(folder), loading);
    const inputs = tokenizer(texts, { padding: true, truncation: true });
    return (await network(inputs))[output].tolist();
}

async function web({ file, feed }) {
    return await answersOfWeb(await import('onnxruntime-web'), readFileSync(file), feed);
}

function at(folder) {
    env.localModelPath = dirname(folder);
    return basename(folder);
}

const programs = { feature_extraction, classification, model, web };
const answers = {};
for (const [name, [program, question]] of Object.entries(JSON.parse(readFileSync(0, 'utf-8')))) {
    try {
        answers[name] = await programs[program](question);
    } catch (error) {
        answers[name] = { error: `${error}` };
    }
}
console.log(JSON.stringify(answers));
process.exit(0);
