// Prints the possible types that the Apollo set-up is told, for the test that compares them with the schema.
import { possibleTypes } from './apollo-client.mjs';

console.log(JSON.stringify(possibleTypes));
