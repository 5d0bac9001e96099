#!/usr/bin/env bash
# Makes harbour-at-dawn.mp4, the film of the demo: 40 s, 1280x720, H.264 + AAC, index in front (faststart), about 7 MB.
# Own work from formulas alone (a sky, a sea, a boat, a foghorn); needs ffmpeg with libx264.
# Encoders differ between versions, so a new run gives the same film, not the same bytes.
set -euo pipefail
cd "$(dirname "$0")"
seconds=40

# Sky above y=150, sea below; the sun (x=300) climbs from behind the horizon. st/ld: 0 progress, 1 sun's height,
# 2 distance to the sun, 3 depth of water, 4 path of light on the water, 5 nearness to the horizon.
scene="st(0,T/$seconds);st(1,172-92*ld(0));st(2,hypot(X-300,Y-ld(1)));st(3,max(Y-150,0));
st(4,exp(-pow((X-300)/(9+ld(3)*0.5),2))*(0.5+0.5*sin(700/(ld(3)+7)+2.2*T+1.6*sin(X*0.13+T*0.7)+0.8*sin(X*0.31-T))));
st(5,exp(-pow((150-Y)/70,2)))"
sky="lt(Y,150)"
red="$scene;min(255,if($sky,22+205*ld(5)*(0.35+0.65*ld(0))+230*exp(-pow(ld(2)/13,6))+110*exp(-ld(2)/70)*ld(0),14+60*ld(0)*exp(-ld(3)/40)+9*sin(420/(ld(3)+9)+1.3*T+sin(X*0.07))+215*ld(4)*(0.25+0.75*ld(0))))"
green="$scene;min(255,if($sky,26+105*ld(5)*(0.25+0.75*ld(0))+190*exp(-pow(ld(2)/13,6))+60*exp(-ld(2)/80)*ld(0),26+42*ld(0)*exp(-ld(3)/50)+10*sin(420/(ld(3)+9)+1.3*T+sin(X*0.07))+140*ld(4)*(0.2+0.8*ld(0))))"
blue="$scene;min(255,if($sky,58+70*(1-Y/150)+62*ld(5)+90*exp(-pow(ld(2)/13,6))+25*exp(-ld(2)/90),52+26*ld(0)+13*sin(420/(ld(3)+9)+1.3*T+sin(X*0.07))+55*ld(4)))"
# A sailing boat: hull, mast, two sails, drawn once as a mask.
boat="255*(between(Y,64,72)*between(X,14+(Y-64)*0.9,66-(Y-64)*1.3)+between(X,39,40.5)*between(Y,8,64)+between(Y,10,60)*between(X,42,42+(Y-10)*0.44)+between(Y,18,60)*between(X,37-(Y-18)*0.36,37))"

ffmpeg -hide_banner -loglevel error -stats -y \
  -f lavfi -i "color=black:s=480x270:r=24:d=$seconds,format=gbrp,geq=r='$red':g='$green':b='$blue',scale=1280:720:flags=bicubic,noise=alls=9:allf=t" \
  -f lavfi -i "color=0x0b0f18:s=80x80:r=24:d=$seconds,format=rgba,geq=r='11':g='15':b='24':a='min(255,$boat)',scale=240:240:flags=lanczos" \
  -f lavfi -i "aevalsrc='0.10*sin(2*PI*110*t)*(0.5+0.5*sin(2*PI*t/9))+0.08*sin(2*PI*164.81*t)*(0.5+0.5*sin(2*PI*t/7+1))+0.06*sin(2*PI*220*t)*(0.5+0.5*sin(2*PI*t/11+2))+0.05*(random(0)*2-1)*(0.3+0.7*pow(sin(2*PI*t/12),2))|0.10*sin(2*PI*110.4*t)*(0.5+0.5*sin(2*PI*t/9))+0.08*sin(2*PI*165.2*t)*(0.5+0.5*sin(2*PI*t/7+1.4))+0.06*sin(2*PI*220.5*t)*(0.5+0.5*sin(2*PI*t/11+2.5))+0.05*(random(1)*2-1)*(0.3+0.7*pow(sin(2*PI*t/12+0.3),2))':s=48000:d=$seconds" \
  -filter_complex "[0:v][1:v]overlay=x='-260+1500*t/$seconds':y='186+6*sin(1.4*t)':format=auto,
drawtext=text='Harbour at dawn':fontsize=64:fontcolor=white:x=(w-tw)/2:y=110:alpha='clip(min(t-1.5,6.5-t),0,1)',
drawtext=text='A Reelswarm film':fontsize=30:fontcolor=white:x=(w-tw)/2:y=196:alpha='clip(min(t-2.5,6.5-t),0,1)',
fade=t=in:d=1,fade=t=out:st=$((seconds - 2)):d=2,format=yuv420p[v];[2:a]afade=t=in:d=1,afade=t=out:st=$((seconds - 2)):d=2[a]" \
  -map '[v]' -map '[a]' -c:v libx264 -preset slow -profile:v high -b:v 1250k -maxrate 2000k -bufsize 4000k -g 48 \
  -c:a aac -b:a 128k -movflags +faststart -map_metadata -1 -metadata title='Harbour at dawn' -fflags +bitexact \
  harbour-at-dawn.mp4
ls -l harbour-at-dawn.mp4
