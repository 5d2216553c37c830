// The text of a QR code in a picture: by the browser where it can, else by a library that comes when it is needed first.

type Picture = HTMLVideoElement | ImageBitmap
type Detector = { detect(picture: Picture): Promise<{ rawValue: string }[]> }
/** A camera's picture is looked at in this size: modules of a long code are a few pixels then, and a look takes milliseconds. */
const SIDE_MAX = 1_000

let detector: Detector | null | undefined

async function byBrowser(): Promise<Detector | null> {
  const Known = (globalThis as { BarcodeDetector?: { new (options: object): Detector; getSupportedFormats(): Promise<string[]> } }).BarcodeDetector
  if (!Known || !(await Known.getSupportedFormats()).includes('qr_code')) return null
  return new Known({ formats: ['qr_code'] })
}

export async function decode(picture: Picture, width: number, height: number): Promise<string | undefined> {
  detector ??= await byBrowser()
  if (detector) return (await detector.detect(picture))[0]?.rawValue
  const { default: jsQR } = await import('jsqr')
  const scale = Math.min(1, SIDE_MAX / Math.max(width, height))
  const canvas = document.createElement('canvas')
  canvas.width = Math.max(1, Math.round(width * scale))
  canvas.height = Math.max(1, Math.round(height * scale))
  const context = canvas.getContext('2d', { willReadFrequently: true })
  if (!context) return undefined
  context.drawImage(picture, 0, 0, canvas.width, canvas.height)
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height)
  return jsQR(data, canvas.width, canvas.height)?.data
}
