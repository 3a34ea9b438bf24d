package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

// TestAbuse_C18_SlowBody: who sends a body in drops is cut off, whether the handler reads it or not; a whole request is not.
func TestAbuse_C18_SlowBody(t *testing.T) {
	srv := httptest.NewServer(hurried(300*time.Millisecond, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/read" {
			if _, err := io.ReadAll(r.Body); err != nil {
				w.WriteHeader(http.StatusRequestTimeout)
			}
		}
	})))
	defer srv.Close()
	for _, path := range []string{"/read", "/unread"} {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx", path)
		stop := make(chan struct{})
		dropped := make(chan struct{})
		go func() {
			defer close(dropped)
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
					_, _ = io.WriteString(conn, "x")
				}
			}
		}()
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: still open", path)
		}
		close(stop)
		<-dropped
		_ = conn.Close()
	}
	res, err := http.Post(srv.URL+"/read", "text/plain", http.NoBody)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("a whole request: %v %v", res, err)
	}
	if err == nil {
		_ = res.Body.Close()
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// TestAbuse_C01_TwoLengths: behind a request with a length and chunks nothing is read any more.
func TestAbuse_C01_TwoLengths(t *testing.T) {
	var paths []string
	srv := httptest.NewServer(hurried(time.Second, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { paths = append(paths, r.URL.Path) })))
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays open")
	}
	_ = conn.Close()
	srv.Close()
	if len(paths) != 1 || paths[0] != "/a" {
		t.Errorf("served: %v", paths)
	}
}
