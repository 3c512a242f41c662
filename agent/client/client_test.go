package client_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/hyper-runtime/hyper/agent/client"
	"github.com/hyper-runtime/hyper/agent/protocol"
)

// guard is the time after which a test that hangs is ended.
const guard = 30 * time.Second

// connect returns both ends of a channel.
func connect(t *testing.T) (host, guest net.Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		file := os.NewFile(uintptr(fd), "port")
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		file.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

// answer shakes hands as an agent does, until the session begins.
func answer(t *testing.T, guest net.Conn) {
	t.Helper()
	b := make([]byte, 1+protocol.NonceSize)
	for {
		if _, err := io.ReadFull(guest, b[:1]); err != nil || b[0] == protocol.Begin {
			return
		}
		io.ReadFull(guest, b[1:])
		b[0] = protocol.Answer
		guest.Write(append(b, protocol.Version))
	}
}

func TestHandshake(t *testing.T) {
	tests := []struct{ name, before, after, fails string }{
		{"clean", "", "\x01", ""},
		{"stale answer before", "hxxxxxxxxxxxxxxxx\x01", "\x01", ""},
		{"stale half before", "hxxx", "\x01", ""},
		{"other version", "", "\x07", "greet the agent: it speaks version 7 of the channel, not 1"},
		{"flood", strings.Repeat("h", 100<<10), "\x01", "greet the agent: the guest sent something else"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			host, guest := connect(t)
			go func() {
				hello := make([]byte, 1+protocol.NonceSize)
				io.ReadFull(guest, hello)
				hello[0] = protocol.Answer
				io.WriteString(guest, test.before+string(hello)+test.after+"more")
			}()
			ctx, cancel := context.WithTimeout(t.Context(), guard)
			defer cancel()
			err := client.Handshake(ctx, host)
			if test.fails != "" {
				if err == nil || err.Error() != test.fails {
					t.Errorf("error %v", err)
				}
				return
			}
			more := make([]byte, 4)
			if _, rerr := io.ReadFull(host, more); err != nil || rerr != nil || string(more) != "more" {
				t.Errorf("error %v, then %q, %v", err, more, rerr)
			}
		})
	}
}

func TestHandshakeEnds(t *testing.T) {
	host, _ := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := client.Handshake(ctx, host); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	host, guest := connect(t)
	guest.Close()
	if err := client.Handshake(t.Context(), host); err == nil {
		t.Error("no error from a dead VM")
	}
}

// begin returns a client whose guest is the caller's: raw bytes of the session.
func begin(t *testing.T) (*client.Client, net.Conn) {
	t.Helper()
	host, guest := connect(t)
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		answer(t, guest)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	c, err := client.New(ctx, host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	<-ready
	return c, guest
}

// frame is a yamux frame: see its spec.md.
func frame(kind byte, flags uint16, id, length uint32, body string) string {
	h := []byte{0, kind}
	h = binary.BigEndian.AppendUint16(h, flags)
	h = binary.BigEndian.AppendUint32(h, id)
	return string(binary.BigEndian.AppendUint32(h, length)) + body
}

// message is a ttrpc message on the control connection, which is yamux's stream 1.
func message(length, id uint32, kind byte, body string) string {
	h := binary.BigEndian.AppendUint32(nil, length)
	h = append(binary.BigEndian.AppendUint32(h, id), kind, 0)
	return frame(0, 0, 1, uint32(len(h)+len(body)), string(h)+body)
}

// opens are frames that open n streams of the guest's.
func opens(n int) string {
	var frames strings.Builder
	for i := range n {
		frames.WriteString(frame(1, 1, uint32(2*i+2), 0, ""))
	}
	return frames.String()
}

func TestGuestBreaksTheRules(t *testing.T) {
	const data, window, ping, away, syn, fin, rst = 0, 1, 2, 3, 1, 4, 8
	tests := []struct{ name, sent, reason string }{
		{"version", "\x09" + frame(data, 0, 1, 0, "")[1:], "frame of version 9"},
		{"type", frame(9, 0, 1, 0, ""), "frame of type 9"},
		{"ping", frame(ping, syn, 0, 1, ""), "frame of type 2"},
		{"opens too many streams", opens(65), "it opened stream 130, 64 being open"},
		{"opens a stream twice", opens(1) + opens(1), "it opened stream 2, 1 being open"},
		{"too long a question", opens(1) + frame(data, 0, 2, 65540, ""), "too many bytes on stream 2"},
		{"a question from nowhere", frame(data, 0, 4, 1, "x"), "bytes on stream 4, which it has not open"},
		{"opens our stream", frame(data, syn, 1, 0, ""), "it opened stream 1"},
		{"4 GiB frame", frame(data, 0, 1, 0xffffffff, ""), "frame of 4294967295 bytes"},
		{"too much for the window", frame(data, 0, 1, 256<<10, strings.Repeat("\x00", 256<<10)) + frame(data, 0, 1, 256<<10, ""), ""},
		{"two ends", frame(window, fin, 1, 0, "") + frame(window, fin, 1, 0, ""), ""},
		{"reset", frame(window, rst, 1, 0, ""), "control connection"},
		{"control ends", frame(window, fin, 1, 0, ""), "control connection"},
		{"goes away", frame(away, 0, 0, 1, ""), "yamux protocol error"},
		{"4 GiB answer", message(0xffffffff, 1, 2, ""), "answer of 4294967295 bytes"},
		{"2 MiB answer", message(2<<20, 1, 2, ""), "answer of 2097152 bytes"},
		{"answer to nothing", message(0, 77, 2, ""), "answer to nothing"},
		{"even answer", message(0, 2, 2, ""), "answer to nothing"},
		{"a question", message(0, 1, 1, ""), "message of type 1"},
		{"stream data", message(0, 1, 3, ""), "message of type 3"},
		{"two answers", message(0, 1, 2, "") + message(0, 1, 2, ""), "answer to nothing"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, guest := begin(t)
			called := make(chan error, 1)
			go func() {
				_, err := c.Wait(t.Context(), &protocol.WaitRequest{ContainerId: "c"})
				called <- err
			}()
			for asked := []byte{}; !bytes.Contains(asked, []byte("Wait")); { // the question is under way
				one := make([]byte, 1)
				if _, err := io.ReadFull(guest, one); err != nil {
					t.Fatal(err)
				}
				asked = append(asked, one...)
			}
			go io.Copy(io.Discard, guest)
			io.WriteString(guest, test.sent)
			<-called
			<-c.Done()
			if err := c.Err(); err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("reason %v, want %q", err, test.reason)
			}
			if _, err := c.Stream(t.Context(), 5); err == nil {
				t.Error("the session goes on")
			}
		})
	}
}

// Whatever the guest sends, the host's memory stays bounded.
func TestFloods(t *testing.T) {
	tests := map[string]string{
		"data for no stream":     frame(0, 0, 99, 1<<10, strings.Repeat("x", 1<<10)),
		"window updates":         frame(1, 0, 1, 0xffffffff, ""),
		"acknowledgements":       frame(1, 2, 1, 0, ""),
		"resets of no stream":    frame(1, 8, 77, 0, ""),
		"goodbyes without cause": frame(3, 0, 0, 0, ""),
	}
	for name, flood := range tests {
		t.Run(name, func(t *testing.T) {
			c, guest := begin(t)
			go io.Copy(io.Discard, guest)
			block := strings.Repeat(flood, 1+(1<<20)/len(flood))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 8 {
				if _, err := io.WriteString(guest, block); err != nil {
					t.Fatal(err)
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 4<<20 {
				t.Errorf("heap grew by %d bytes", grown)
			}
			if n := runtime.NumGoroutine(); n > 100 {
				t.Errorf("%d goroutines", n)
			}
			if err := c.Err(); err != nil {
				t.Errorf("session ended: %v", err)
			}
		})
	}
}

// A guest that takes nothing and says nothing does not keep the host from anything.
func TestSilentGuest(t *testing.T) {
	c, _ := begin(t)
	s, err := c.Stream(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for range 20 {
		_, err := c.Create(ctx, &protocol.CreateRequest{ContainerId: "c", Spec: make([]byte, 1<<20)})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v", err)
		}
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, 10<<20))
		wrote <- err
	}()
	read := make(chan error, 1)
	go func() {
		_, err := s.Read(make([]byte, 1))
		read <- err
	}()
	c.Close()
	if <-wrote == nil || <-read == nil {
		t.Error("a stream outlives its session")
	}
	<-c.Done()
	if !errors.Is(c.Err(), client.ErrClosed) {
		t.Errorf("reason %v", c.Err())
	}
}

// agent answers one call after the other with the same response.
func respond(t *testing.T, guest net.Conn, response *ttrpc.Response) {
	session, err := yamux.Server(guest, protocol.Mux())
	if err != nil {
		t.Error(err)
		return
	}
	defer session.Close()
	control, err := session.Accept()
	if err != nil {
		return
	}
	io.CopyN(io.Discard, control, 4)
	body, err := proto.Marshal(response)
	if err != nil {
		t.Error(err)
	}
	for {
		h := make([]byte, 10)
		if _, err := io.ReadFull(control, h); err != nil {
			return
		}
		io.CopyN(io.Discard, control, int64(binary.BigEndian.Uint32(h)))
		binary.BigEndian.PutUint32(h, uint32(len(body)))
		h[8] = 2
		control.Write(append(h, body...))
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name    string
		code    int32
		message string
		want    string
	}{
		{"plain", int32(codes.NotFound), "container does not exist", "container does not exist"},
		{"lines and colours", int32(codes.Unknown), "a\nb\r\x1b[31mc\x00\ufffd\u2028d\u009b", "a b  [31mc   d"},
		{"long", int32(codes.Unknown), strings.Repeat("x", 1<<19), strings.Repeat("x", 4096)},
		{"no such code", -5, "x", "x"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, guest := begin(t)
			s := status.New(codes.Code(test.code), test.message).Proto()
			go respond(t, guest, &ttrpc.Response{Status: s, Payload: []byte("\xff\xff\xff")})
			_, err := c.Start(t.Context(), &protocol.StartRequest{})
			if err == nil || err.Error() != test.want || status.Code(err) != codes.Code(test.code) {
				t.Errorf("error %q, code %v", err, status.Code(err))
			}
		})
	}
	c, guest := begin(t)
	go respond(t, guest, &ttrpc.Response{Payload: []byte("\xff\xff\xff")})
	if _, err := c.Wait(t.Context(), &protocol.WaitRequest{}); err == nil {
		t.Error("nonsense is an answer")
	}
}

func FuzzSession(f *testing.F) {
	f.Add([]byte(frame(0, 0, 1, 3, "abc")))
	f.Add([]byte(message(2, 1, 2, "\x12\x00")))
	f.Fuzz(func(t *testing.T, sent []byte) {
		c, guest := begin(t)
		go io.Copy(io.Discard, guest)
		go guest.Write(sent)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Wait(ctx, &protocol.WaitRequest{}); err == nil && !bytes.Contains(sent, []byte{2}) {
			t.Error("an answer from nowhere")
		}
	})
}
