package s3test

import (
	"bytes"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// Fault is what happens to a request on its way to a server, or to the answer.
type Fault int

// The faults of a Proxy.
const (
	None          Fault = iota
	InternalError       // 500, and the server hears of nothing
	SlowDown            // 503 likewise
	Reset               // the connection breaks when half of the request has come
	ResetAnswer         // it is done, and the connection breaks before any answer
	HalfAnswer          // it is done, and the connection breaks when half of the answer has come
	LateAnswer          // it is done, and the answer comes when the client has gone
	LateRequest         // it is done when the client has gone
	faults
)

// Faults are all but None.
func Faults() (all []Fault) {
	for f := None + 1; f < faults; f++ {
		all = append(all, f)
	}
	return all
}

// Proxy is an address of a server on the way to which requests have faults.
type Proxy struct {
	Endpoint string // URL
	choose   func(r *http.Request) Fault
	server   *url.URL
	closed   chan struct{}
}

// Proxy starts a proxy, which ends with the test. choose says what happens to a request; it is called from several
// goroutines at once.
func (s *Server) Proxy(t testing.TB, choose func(r *http.Request) Fault) *Proxy {
	t.Helper()
	to, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{choose: choose, server: to, closed: make(chan struct{})}
	front := httptest.NewServer(p)
	p.Endpoint = front.URL
	t.Cleanup(func() {
		close(p.closed)
		front.CloseClientConnections()
		front.Close()
	})
	return p
}

// ServeHTTP passes a request on, with the fault that was chosen.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := p.choose(r)
	if fault == Reset {
		_, _ = io.CopyN(io.Discard, r.Body, max(0, r.ContentLength/2)) // the client may have gone
		breakConnection(w)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		breakConnection(w)
		return
	}
	switch fault {
	case InternalError:
		refuse(w, http.StatusInternalServerError, "InternalError")
		return
	case SlowDown:
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
		return
	case LateRequest:
		p.gone(r)
	}
	answer, content, err := p.pass(r, body)
	if err != nil {
		breakConnection(w)
		return
	}
	switch fault {
	case ResetAnswer:
		breakConnection(w)
		return
	case LateAnswer:
		p.gone(r)
	}
	maps.Copy(w.Header(), answer.Header)
	w.WriteHeader(answer.StatusCode)
	if fault == HalfAnswer {
		_, _ = w.Write(content[:len(content)/2])
		breakConnection(w)
		return
	}
	_, _ = w.Write(content) // the client may have gone
}

// gone waits until the client has given up.
func (p *Proxy) gone(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-p.closed:
	}
}

// pass sends the request on, and returns the answer. That the client has gone does not matter.
func (p *Proxy) pass(r *http.Request, body []byte) (*http.Response, []byte, error) {
	to := *r.URL
	to.Scheme, to.Host = p.server.Scheme, p.server.Host
	request, err := http.NewRequest(r.Method, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	request.Header = r.Header.Clone()
	request.Host = r.Host // which is signed
	answer, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return answer, content, err
}

// refuse answers as S3 does.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>`+code+`</Code><Message>a fault of the test</Message></Error>`)
}

// breakConnection ends a connection with what was written so far, and no more.
func breakConnection(w http.ResponseWriter) {
	connection, buffer, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	_ = buffer.Flush()
	if c, ok := connection.(*net.TCPConn); ok && buffer.Reader.Buffered() > 0 {
		_ = c.SetLinger(0)
	}
	_ = connection.Close()
}
