// A tailnet's control server, DERP relay and STUN responder for tests: what Tailscale's own integration tests run on.
//
// Whoever asks is let in, unless it is started with an auth key; then it asks for that again whenever a node starts anew, which no
// real one does of a node that it knows. Nodes get the tags of the key when they come.
//
// It listens on one address and three fixed ports, keeps everything in memory, and says "ready" when it can be used. It is
// led by lines on its standard input, answers each with one line ("ok", or what is wrong), and ends with that input:
//
//	login                   whoever comes from now on waits for "done"
//	done URL                a person has logged in the node that waits at this URL
//	tags NAME [TAG...]      sets the tags of the node with this host name
//	expires NAME DURATION   sets the end of its key; a negative duration = it has ended
//	outage DURATION         control and DERP break all connections and take none for so long
package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
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
	authKey := flag.String("auth-key", "", "auth key that every node must have")
	authTags := flag.String("auth-tags", "", "tags of whoever has it, with commas between them")
	flag.Parse()

	go serveSTUN(*address, *port+2)
	derp := listen(*address, *port+1)
	serveDERP(derp)
	control := &testcontrol.Server{
		Logf:            func(string, ...any) {},
		DERPMap:         derpMap(*address, *port),
		ExplicitBaseURL: fmt.Sprintf("http://%s:%d", *address, *port),
		MagicDNSDomain:  "tailnet.example",
		AllOnline:       true,
		RequireAuthKey:  *authKey,
	}
	tags := &tagger{control: control, tags: strings.FieldsFunc(*authTags, func(r rune) bool { return r == ',' })}
	slow := &calm{last: map[key.NodePublic]string{}}
	control.HoldMapRequest = func(r *tailcfg.MapRequest) func() {
		tags.give()
		slow.hold(r)
		return nil
	}
	door := listen(*address, *port)
	go func() { log.Fatal(http.Serve(door, control)) }()
	fmt.Println("ready")

	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := obey(control, []*gate{door, derp}, strings.Fields(lines.Text())); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("ok")
		}
	}
}

// obey does what a line says.
func obey(control *testcontrol.Server, gates []*gate, words []string) error {
	switch {
	case len(words) >= 2 && words[0] == "tags":
		return change(control, words[1], func(node *tailcfg.Node) { node.Tags = words[2:] })
	case len(words) == 1 && words[0] == "login":
		control.RequireAuth, control.RequireMachineAuth = true, true
		return nil
	case len(words) == 2 && words[0] == "done":
		// This server says of a node that waits that it is authorized, unless its machine is not.
		control.RequireAuth, control.RequireMachineAuth = false, false
		for _, node := range control.AllNodes() {
			node.MachineAuthorized = true
			control.UpdateNode(node)
		}
		if !control.CompleteAuth(words[1]) {
			return errors.New("nobody waits there")
		}
		return nil
	case len(words) == 3 && words[0] == "expires":
		left, err := time.ParseDuration(words[2])
		if err != nil {
			return err
		}
		return change(control, words[1], func(node *tailcfg.Node) { node.KeyExpiry = time.Now().Add(left) })
	case len(words) == 2 && words[0] == "outage":
		length, err := time.ParseDuration(words[1])
		if err != nil {
			return err
		}
		for _, gate := range gates {
			gate.shut(length)
		}
		return nil
	default:
		return errors.New("no such command")
	}
}

func change(control *testcontrol.Server, name string, how func(*tailcfg.Node)) error {
	for _, node := range control.AllNodes() {
		if node.Hostinfo.Hostname() == name {
			how(node)
			control.UpdateNode(node)
			return nil
		}
	}
	return errors.New("no such node")
}

// tagger gives tags to nodes that come for the first time.
type tagger struct {
	control *testcontrol.Server
	tags    []string
	mu      sync.Mutex
	known   map[tailcfg.StableNodeID]bool
}

func (t *tagger) give() {
	if len(t.tags) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil {
		t.known = map[tailcfg.StableNodeID]bool{}
	}
	for _, node := range t.control.AllNodes() {
		if !t.known[node.StableID] {
			t.known[node.StableID] = true
			node.Tags = t.tags
			t.control.UpdateNode(node)
		}
	}
}

// calm slows nodes that ask again although nothing has changed: this server answers each request with an update, to
// which some clients react with the next request.
type calm struct {
	mu   sync.Mutex
	last map[key.NodePublic]string
}

func (c *calm) hold(r *tailcfg.MapRequest) {
	if r.Stream {
		return
	}
	said := fmt.Sprint(r.Endpoints, r.DiscoKey)
	if r.Hostinfo != nil && r.Hostinfo.NetInfo != nil {
		said += fmt.Sprint(r.Hostinfo.NetInfo.PreferredDERP)
	}
	c.mu.Lock()
	again := c.last[r.NodeKey] == said
	c.last[r.NodeKey] = said
	c.mu.Unlock()
	if again {
		// Not longer: a handshake may wait behind it.
		time.Sleep(time.Second)
	} else {
		time.Sleep(100 * time.Millisecond)
	}
}

// gate is a listener all of whose connections can be broken.
type gate struct {
	net.Listener
	mu   sync.Mutex
	till time.Time
	// All that were ever accepted: a test has some dozens.
	conns []net.Conn
}

func listen(address string, port int) *gate {
	listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", address, port))
	if err != nil {
		log.Fatal(err)
	}
	return &gate{Listener: listener}
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g.keep(conn) {
			return conn, nil
		}
		conn.Close()
	}
}

func (g *gate) keep(conn net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Now().Before(g.till) {
		return false
	}
	g.conns = append(g.conns, conn)
	return true
}

func (g *gate) shut(length time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.till = time.Now().Add(length)
	for _, conn := range g.conns {
		conn.Close()
	}
	g.conns = nil
}

func derpMap(address string, port int) *tailcfg.DERPMap {
	node := &tailcfg.DERPNode{
		Name: "t1", RegionID: 1, HostName: address, IPv4: address, IPv6: "none",
		DERPPort: port + 1, STUNPort: port + 2, InsecureForTests: true, STUNTestIP: address,
	}
	region := &tailcfg.DERPRegion{RegionID: 1, RegionCode: "test", Nodes: []*tailcfg.DERPNode{node}}
	return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: region}}
}

func serveDERP(listener net.Listener) {
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
