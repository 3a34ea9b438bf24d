package relay

import (
	"errors"
	"sync"
)

// readBuffer holds what one turn reads of a stream, and the messages in it. A loop has one, and each blocking stream.
type readBuffer struct {
	bytes [plainChunk]byte
	msgs  [][]byte
}

// plainChunk has room for what rawChunk may hold, and for a record that had begun before.
const plainChunk = rawChunk + 17<<10

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// inlet is a stream's reading half.
type inlet struct {
	take func(buf *readBuffer, n int) error
	over func(err error)
	done bool
}

// start begins to read: what arrives is handed to take, whose buf is until it returns. Once the stream has ended, or take has failed,
// over is called with the reason, but not if the stream was closed before. Both are called on the loop's thread, or one's own.
func (st *stream) start(take func(buf *readBuffer, n int) error, over func(err error)) error {
	st.inlet = inlet{take: take, over: over}
	if st.socket != nil {
		defer st.loop.flushLater(firstRead{st})
		return st.loop.watch(st.socket.descriptor)
	}
	st.wg.Add(1)
	go func() {
		defer st.wg.Done()
		defer st.loop.defects.Catch(st.report)
		over(st.readBlocking())
	}()
	return nil
}

// firstRead takes what TLS read together with the handshake's end, which no event tells of.
type firstRead struct{ *stream }

func (r firstRead) flush() { r.ready(true, false) }

// ready implements pollable.
func (st *stream) ready(readable, writable bool) {
	if writable {
		st.proceed(false)
	}
	if !readable || st.inlet.done {
		return
	}
	if err := st.read(); err != nil {
		st.inlet.done = true
		st.socket.ignore()
		st.inlet.over(err)
	}
}

// read takes what the kernel has, and hands it on in one piece, as far as there is room for it.
func (st *stream) read() (err error) {
	k, buf := st.socket, &st.loop.in
	k.fill(st.loop.raw[:])
	for err == nil {
		n := 0
		for err == nil && n < len(buf.bytes) {
			var got int
			got, err = st.io.Read(buf.bytes[n:])
			n += got
		}
		if n > 0 {
			if failed := st.inlet.take(buf, n); failed != nil {
				err = failed
			}
		}
	}
	k.filled = nil
	st.kick()
	if errors.Is(err, errWouldBlock) {
		return nil
	}
	return err
}

func (st *stream) readBlocking() error {
	buf := readBuffers.Get().(*readBuffer)
	defer readBuffers.Put(buf)
	for {
		n, err := st.io.Read(buf.bytes[:])
		if n > 0 {
			if failed := st.inlet.take(buf, n); failed != nil {
				return failed
			}
		}
		if err != nil {
			return err
		}
	}
}
