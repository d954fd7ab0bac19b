// Unpacks the Chromium of @sparticuz/chromium into a folder: the program, and libraries that a bare system lacks.
import { createReadStream, createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createBrotliDecompress } from 'node:zlib';

const [source, folder] = process.argv.slice(2);
for (const [packed, name] of [['chromium.br', 'chromium'], ['al2023.tar.br', 'libraries.tar']]) {
    await pipeline(createReadStream(`${source}/${packed}`), createBrotliDecompress(), createWriteStream(`${folder}/${name}`));
}
console.log('{}');
