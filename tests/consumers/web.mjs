// Answers of onnxruntime-web, in Node and in a browser: every output's values, flat, by its name.
export async function answers(ort, model, feed) {
    ort.env.wasm.numThreads = 1;
    const session = await ort.InferenceSession.create(model);
    const inputs = {};
    for (const name of session.inputNames) {
        const rows = feed[name];
        inputs[name] = new ort.Tensor('int64', BigInt64Array.from(rows.flat().map(BigInt)), [rows.length, rows[0].length]);
    }
    const found = await session.run(inputs);
    return Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, Array.from(tensor.data)]));
}
