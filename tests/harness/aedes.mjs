// aedes as it comes, on one loopback port, until SIGTERM: node aedes.mjs MODULE PORT
import { createServer } from 'node:net'
import { pathToFileURL } from 'node:url'

const [, , module, port] = process.argv
const { Aedes } = await import(pathToFileURL(module))
const broker = await Aedes.createBroker()
const server = createServer(broker.handle)
server.listen(Number(port), '127.0.0.1')
process.on('SIGTERM', () => {
  server.close()
  broker.close(() => process.exit(0))
})
