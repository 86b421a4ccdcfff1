package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

// cache remembers which passwords were right, as keyed digests: what it holds is worth nothing
// outside this process. The stored hash is part of the digest, so a changed password is
// forgotten by itself.
type cache struct {
	half       int // entries in young, at most
	young, old map[digest]struct{}
	key        [32]byte
}

type digest [sha256.Size]byte

func (c *cache) init(size int) {
	c.half = max(1, size/2)
	c.young, c.old = map[digest]struct{}{}, map[digest]struct{}{}
	rand.Read(c.key[:]) // does not fail
}

// digest returns the keyed digest of an attempt. Lengths go before texts: "ab", "c" must not be
// "a", "bc".
func (c *cache) digest(user string, password []byte, s *secret) (d digest) {
	h := hmac.New(sha256.New, c.key[:])
	var n [8]byte
	binary.LittleEndian.PutUint32(n[:4], uint32(len(user)))
	binary.LittleEndian.PutUint32(n[4:], uint32(len(password)))
	h.Write(n[:])
	h.Write([]byte(user))
	h.Write(password)
	h.Write([]byte(s.text))
	h.Sum(d[:0])
	return d
}

func (c *cache) has(user string, password []byte, s *secret) bool {
	d := c.digest(user, password, s)
	if _, ok := c.young[d]; ok {
		return true
	}
	if _, ok := c.old[d]; ok {
		delete(c.old, d)
		c.put(d)
		return true
	}
	return false
}

func (c *cache) add(user string, password []byte, s *secret) { c.put(c.digest(user, password, s)) }

// put makes d the youngest. When young is full it becomes old, and what was old and not seen
// since is forgotten.
func (c *cache) put(d digest) {
	if len(c.young) >= c.half {
		clear(c.old)
		c.young, c.old = c.old, c.young
	}
	c.young[d] = struct{}{}
}
