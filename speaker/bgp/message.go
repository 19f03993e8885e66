package bgp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Messages of RFC 4271 section 4.1 and RFC 2918.
const (
	msgOpen         = 1
	msgUpdate       = 2
	msgNotification = 3
	msgKeepalive    = 4
	msgRouteRefresh = 5

	headerLen  = 19
	maxMessage = 4096
)

var (
	marker    = bytes.Repeat([]byte{0xff}, 16)
	keepalive = frame(msgKeepalive, nil)
	// shortest are the least lengths of the messages, by type.
	shortest = [...]int{msgOpen: 29, msgUpdate: 23, msgNotification: 21, msgKeepalive: 19, msgRouteRefresh: 23}
)

// frame makes a message of a type and a body.
func frame(kind uint8, body []byte) []byte {
	m := make([]byte, headerLen, headerLen+len(body))
	copy(m, marker)
	binary.BigEndian.PutUint16(m[16:], uint16(headerLen+len(body)))
	m[18] = kind
	return append(m, body...)
}

// Notification is why an end of a session ends it (RFC 4271 section 4.5).
type Notification struct {
	Code, Subcode uint8
	Data          []byte
}

func (n Notification) frame() []byte {
	return frame(msgNotification, append([]byte{n.Code, n.Subcode}, n.Data...))
}

// Codes and subcodes of NOTIFICATIONs that are sent here (RFC 4271 section 4.5,
// RFC 4486, RFC 5492, RFC 6608, RFC 9384, RFC 9687).
const (
	codeHeader        = 1
	notSynchronized   = 1
	badLength         = 2
	badType           = 3
	codeOpen          = 2
	badVersion        = 1
	badPeerAS         = 2
	badIdentifier     = 3
	badHoldTime       = 6
	badCapability     = 7
	codeHoldTimer     = 4
	codeStateMachine  = 5
	inOpenSent        = 1
	inOpenConfirm     = 2
	inEstablished     = 3
	codeCease         = 6
	ceaseShutdown     = 2
	ceaseDeconfigured = 3
	ceaseReset        = 4
	ceaseCollision    = 7
	ceaseBFDDown      = 10
)

const (
	maxShutdownReason = 255 // bytes
	flushTime         = time.Second
	// sendHoldTime is how long a peer may refuse to read at least (RFC 9687 section 5).
	sendHoldTime = 8 * time.Minute
	readBuffer   = 16 << 10
	socketBuffer = 256 << 10
)

// shutdownData is the data of a Cease that tells people why (RFC 9003 section
// 2): text is cut at a character's end where it is longer than 255 bytes.
func shutdownData(text string) []byte {
	if len(text) > maxShutdownReason {
		end := maxShutdownReason
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	return append([]byte{uint8(len(text))}, text...)
}

// decodeNotification reads the body of a NOTIFICATION.
func decodeNotification(body []byte) Notification {
	return Notification{Code: body[0], Subcode: body[1], Data: bytes.Clone(body[2:])}
}

// checkHeader returns the type and length of a message, or a *leave that says
// what is wrong with it (RFC 4271 section 6.1).
func checkHeader(h []byte) (kind uint8, length int, err error) {
	if !bytes.Equal(h[:16], marker) {
		return 0, 0, &leave{
			note: &Notification{codeHeader, notSynchronized, nil},
			why:  "what the peer sent is not BGP: wrong marker",
		}
	}
	length, kind = int(binary.BigEndian.Uint16(h[16:])), h[18]
	if int(kind) >= len(shortest) || kind == 0 {
		return 0, 0, &leave{
			note: &Notification{codeHeader, badType, []byte{kind}},
			why:  fmt.Sprintf("the peer sent a message of the unknown type %d", kind),
		}
	}
	fixed := kind == msgKeepalive || kind == msgRouteRefresh
	if length < shortest[kind] || length > maxMessage || fixed && length != shortest[kind] {
		return 0, 0, &leave{
			note: &Notification{codeHeader, badLength, bytes.Clone(h[16:18])},
			why:  fmt.Sprintf("the peer sent a message of type %d with the impossible length %d", kind, length),
		}
	}
	return kind, length, nil
}

// wire carries whole messages over a connection. One goroutine reads, any may write.
type wire struct {
	net.Conn
	in  *bufio.Reader
	buf [maxMessage]byte

	closing atomic.Bool // farewell has begun

	mu  sync.Mutex // held for as long as the writing of a message takes
	out *bufio.Writer
}

func newWire(conn net.Conn) *wire {
	if tcp, ok := conn.(*net.TCPConn); ok {
		// The kernel would let megabytes wait for a peer that does not read.
		_ = tcp.SetWriteBuffer(socketBuffer) // else it does
		_ = tcp.SetReadBuffer(socketBuffer)
	}
	return &wire{Conn: conn, in: bufio.NewReaderSize(conn, readBuffer), out: bufio.NewWriterSize(conn, readBuffer)}
}

// read returns the next message's type and body. The body is overwritten by the
// next call. However long a message claims to be, 4096 bytes are the most read.
func (w *wire) read() (kind uint8, body []byte, err error) {
	if _, err := io.ReadFull(w.in, w.buf[:headerLen]); err != nil {
		return 0, nil, err
	}
	kind, length, err := checkHeader(w.buf[:headerLen])
	if err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(w.in, w.buf[headerLen:length]); err != nil {
		return 0, nil, err
	}
	return kind, w.buf[headerLen:length], nil
}

// write sends a message, and with flush all that waits before it. It waits for
// a peer that does not read for 8 minutes (RFC 9687).
func (w *wire) write(message []byte, flush bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.SetWriteDeadline(time.Now().Add(sendHoldTime)); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	if w.closing.Load() { // asked after the deadline was set: farewell sets its own after this
		return net.ErrClosed
	}
	return w.put(message, flush)
}

func (w *wire) put(message []byte, flush bool) error {
	if _, err := w.out.Write(message); err != nil {
		return err
	}
	if flush {
		return w.out.Flush()
	}
	return nil
}

// farewell closes the connection. A NOTIFICATION is written first, unless the
// other end does not read, and it is given time to arrive: a close with unread
// data in the socket would send a reset that overtakes it.
func (w *wire) farewell(note *Notification) {
	defer func() { _ = w.Close() }() // nothing is left to do if that fails
	w.closing.Store(true)
	if note == nil {
		return
	}
	_ = w.SetWriteDeadline(time.Now().Add(flushTime / 4)) // ends a write that blocks, and so frees the lock
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.put(note.frame(), true) != nil {
		return
	}
	half, ok := w.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	enough := time.AfterFunc(flushTime, func() { _ = w.Close() })
	defer enough.Stop()
	_, _ = io.Copy(io.Discard, w.Conn)
}

// leave is an end of a session that this speaker decided.
type leave struct {
	note *Notification // what the peer is told; nil only closes the connection
	why  string
	// anew: not a failure, the next attempt is at once.
	anew bool
	// keep: with graceful restart the connection is only closed, so that the
	// peer keeps the routes until the session is back (RFC 4724).
	keep bool
	// gone: there is no next attempt.
	gone bool
}

func (l *leave) Error() string { return l.why }

// dismissed is a session's end by a NOTIFICATION of the peer.
type dismissed struct{ Notification }

func (d *dismissed) Error() string { return "the peer says: " + d.String() }

// isTimeout tells a passed deadline from a broken connection.
func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
