/** FNV-1a of 64 bits, as 16 hexadecimal digits. */
export const fnv1a64 = (bytes: Uint8Array): string => {
  let hash = 0xcbf29ce484222325n
  for (const byte of bytes) hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & 0xffff_ffff_ffff_ffffn
  return hash.toString(16).padStart(16, "0")
}
