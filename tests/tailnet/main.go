// A tailnet's control server, DERP relay and STUN responder for tests: what Tailscale's own integration tests run on.
//
// It listens on one address and three fixed ports, so that a restart of it is a fault that a test can inject. It keeps
// everything in memory. Requests to /test/ change nodes:
//
//	POST /test/node?name=h1&tags=tag:a,tag:b   sets the tags of a node (none if empty)
//	POST /test/node?name=h1&expires=1h         sets the end of its key; negative = it has ended
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
)

func main() {
	address := flag.String("address", "127.0.0.1", "IP address to listen on")
	port := flag.Int("port", 8500, "port of control; DERP has the next one, and STUN the one after that")
	authKey := flag.String("auth-key", "", "auth key that nodes must have")
	flag.Parse()

	go serveSTUN(*address, *port+2)
	serveDERP(*address, *port+1)
	control := &testcontrol.Server{
		Logf:            func(string, ...any) {},
		DERPMap:         derpMap(*address, *port),
		ExplicitBaseURL: fmt.Sprintf("http://%s:%d", *address, *port),
		RequireAuthKey:  *authKey,
		MagicDNSDomain:  "tailnet.example",
		AllOnline:       true,
		HoldMapRequest:  calm(),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /test/node", func(w http.ResponseWriter, r *http.Request) { change(control, w, r) })
	mux.Handle("/", control)
	log.Printf("control at %s", control.ExplicitBaseURL)
	log.Fatal(http.ListenAndServe(fmt.Sprintf("%s:%d", *address, *port), mux))
}

// calm slows nodes that ask again although nothing has changed: this server answers each request with an update, to
// which some clients react with the next request.
func calm() func(*tailcfg.MapRequest) func() {
	return func(r *tailcfg.MapRequest) func() {
		if !r.Stream {
			time.Sleep(100 * time.Millisecond)
		}
		return nil
	}
}

func change(control *testcontrol.Server, w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	for _, node := range control.AllNodes() {
		if node.Hostinfo.Hostname() != query.Get("name") {
			continue
		}
		if query.Has("tags") {
			node.Tags = strings.FieldsFunc(query.Get("tags"), func(c rune) bool { return c == ',' })
		}
		if query.Has("expires") {
			left, err := time.ParseDuration(query.Get("expires"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			node.KeyExpiry = time.Now().Add(left)
		}
		control.UpdateNode(node)
		return
	}
	http.Error(w, "no such node", http.StatusNotFound)
}

func derpMap(address string, port int) *tailcfg.DERPMap {
	node := &tailcfg.DERPNode{
		Name: "t1", RegionID: 1, HostName: address, IPv4: address, IPv6: "none",
		DERPPort: port + 1, STUNPort: port + 2, InsecureForTests: true, STUNTestIP: address,
	}
	region := &tailcfg.DERPRegion{RegionID: 1, RegionCode: "test", Nodes: []*tailcfg.DERPNode{node}}
	return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: region}}
}

func serveDERP(address string, port int) {
	listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", address, port))
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewUnstartedServer(derpserver.Handler(derpserver.New(key.NewNode(), func(string, ...any) {})))
	server.Listener.Close()
	server.Listener = listener
	// DERP takes over the connection, which HTTP/2 does not allow.
	server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	server.StartTLS()
}

func serveSTUN(address string, port int) {
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(address), Port: port})
	if err != nil {
		log.Fatal(err)
	}
	packet := make([]byte, 1500)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(packet)
		if err != nil {
			log.Fatal(err)
		}
		if id, err := stun.ParseBindingRequest(packet[:n]); err == nil {
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			socket.WriteToUDPAddrPort(stun.Response(id, from), from)
		}
	}
}
